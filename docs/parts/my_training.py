"""Train and test a localizer with a plain Lightning Trainer."""

import lightning as L
from lightning.pytorch.callbacks import ModelCheckpoint

from declip_pl.data.datamodule import LocalizationDataModule
from declip_pl.training.task import LocalizationTask

if __name__ == "__main__":  # the processes that decode photos import this file again
    data = LocalizationDataModule("data/mini", "ldm", batch_size=16)
    task = LocalizationTask(
        encoder="openai/clip-vit-base-patch16", layer="layer5", decoder="light", learning_rate=2e-3
    )
    best = ModelCheckpoint("outputs/mine", "best", monitor="val/score", mode="max")
    trainer = L.Trainer(max_epochs=8, callbacks=[best], logger=False)
    trainer.fit(task, datamodule=data)
    trainer.test(task, datamodule=data, ckpt_path="best", weights_only=True, verbose=False)
    print(task.results)
    for batch in trainer.predict(task, datamodule=data):  # the test photos, or data.photos
        print(batch["name"], batch["score"].tolist(), batch["probabilities"].shape)
