"""The LightningModule and what surrounds a run: schedules, callbacks, recipes, folders, results."""
