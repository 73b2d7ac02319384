"use strict";
// Makes the report's list sortable and filterable, its pictures enlargeable and its tables copyable.
// Nothing is fetched; without it the page shows the same figures.
(() => {
  const make = (tag, text, attributes = {}) => {
    const element = document.createElement(tag);
    element.textContent = text;
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    return element;
  };

  // Copy buttons.
  for (const button of document.querySelectorAll(".copy button")) {
    const text = button.closest(".copy").querySelector("pre");
    button.hidden = false;
    button.addEventListener("click", async () => {
      getSelection().selectAllChildren(text);
      let done = false;
      try { await navigator.clipboard.writeText(text.textContent); done = true; } catch { done = document.execCommand("copy"); }
      button.textContent = done ? "Copied" : "Selected";
    });
  }

  // Enlargement.
  const dialog = document.getElementById("enlarged");
  if (!dialog) return;  // a report without photos
  const big = dialog.querySelector(".big");
  const enlarge = (ids, further = []) => {
    big.replaceChildren();
    for (const image of ids.map((id) => document.getElementById(id)).filter(Boolean)) {
      const link = image.closest("a").getAttribute("href");
      big.append(make("img", "", { src: image.src, alt: image.alt }), make("p", image.alt));
      const where = make("p", "");
      where.append(make("a", link, { href: link }));
      big.append(where);
    }
    big.append(...further);
    dialog.showModal();
  };
  document.addEventListener("click", (event) => {
    const link = event.target.closest("a.tiles");
    if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    enlarge([link.querySelector("img").id]);
  });
  dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });

  // The list.
  const data = document.getElementById("gallery-data");
  if (!data) return;
  const { labels, numbers, groups } = JSON.parse(data.textContent);
  const lines = [];
  for (const group of groups) {
    group.photos.forEach((photo, place) => lines.push({
      photo, group, picture: group.pictures[photo] || "",
      values: group.numbers.map((column) => column[place]),
    }));
  }
  const gallery = document.getElementById("gallery"), body = gallery.querySelector("tbody");
  const form = gallery.querySelector("form"), found = gallery.querySelector(".found");
  const more = gallery.querySelector(".more"), STEP = 50;
  const show = (value, digits) => value === null ? "" : value.toFixed(digits);
  let sort = { column: 2 + labels.length, up: true }, shown = STEP;

  // What a line is sorted by: photo, labels, numbers, in the order of the columns after the picture.
  const key = (line, column) => column === 0 ? Boolean(line.picture) ? 0 : 1 : column === 1 ? line.photo
    : column < 2 + labels.length ? line.group.labels[column - 2] : line.values[column - 2 - labels.length];
  const compare = (one, other) => {
    const a = key(one, sort.column), b = key(other, sort.column);
    if (a === b) return one.photo < other.photo ? -1 : one.photo > other.photo ? 1 : 0;
    if (a === null || b === null) return a === null ? 1 : -1;  // what has no score comes last
    return (a < b ? -1 : 1) * (sort.up ? 1 : -1);
  };
  const cells = (line) => {
    const row = document.createElement("tr"), picture = document.createElement("td");
    const image = line.picture && document.getElementById(line.picture);
    const button = make("button", image ? "" : "details", { type: "button", class: "thumb", "aria-label": `enlarge ${line.photo}` });
    if (image) button.append(make("img", "", { src: image.src, alt: "", loading: "lazy", width: 72, height: 72 }));
    button.addEventListener("click", () => {
      // Without a picture of its own, a line shows those of the same photo in other cells.
      const others = lines.filter((other) => other.photo === line.photo && other.picture);
      enlarge(line.picture ? [line.picture] : others.map((other) => other.picture), [details(line)]);
    });
    picture.append(button);
    row.append(picture, make("th", line.photo, { class: "name", scope: "row" }));
    line.group.labels.forEach((label, place) => {
      const cell = make("td", label, { class: "name" });
      if (line.group.home && place === labels.length - 1) cell.append(" ", make("span", "in-domain", { class: "badge" }));
      row.append(cell);
    });
    line.values.forEach((value, place) => row.append(make("td", show(value, numbers[place][1]))));
    return row;
  };
  const details = (line) => {
    const table = make("table", "", { class: "list full" }), head = make("tr", "");
    table.append(make("caption", `All scores of ${line.photo}`));
    for (const title of [...labels, ...numbers.map((number) => number[0])]) head.append(make("th", title, { scope: "col" }));
    table.append(head);
    for (const other of lines.filter((entry) => entry.photo === line.photo)) {
      const row = make("tr", "");
      other.group.labels.forEach((label) => row.append(make("td", label)));
      other.values.forEach((value, place) => row.append(make("td", show(value, numbers[place][1]))));
      table.append(row);
    }
    const wide = make("div", "", { class: "wide" });
    wide.append(table);
    return wide;
  };
  const update = () => {
    const words = form.elements.words.value.toLowerCase(), where = form.elements.where.value;
    const wanted = labels.map((_, place) => form.elements[`label-${place}`].value);
    const chosen = lines.filter((line) =>
      line.photo.toLowerCase().includes(words)
      && wanted.every((label, place) => !label || line.group.labels[place] === label)
      && (where === "" || (where === "home") === line.group.home)
      && (!form.elements.drawn.checked || line.picture)).sort(compare);
    body.replaceChildren(...chosen.slice(0, shown).map(cells));
    found.textContent = `${Math.min(shown, chosen.length).toLocaleString("en")} of ${chosen.length.toLocaleString("en")} lines shown`;
    more.hidden = chosen.length <= shown;
    gallery.querySelectorAll("thead th").forEach((head, column) =>
      head.setAttribute("aria-sort", column === sort.column ? sort.up ? "ascending" : "descending" : "none"));
  };
  const field = (name, control) => { const label = make("label", `${name} `); label.append(control); form.append(label); };
  field("photo", make("input", "", { type: "search", name: "words", size: 12 }));
  labels.forEach((label, place) => {
    const select = make("select", "", { name: `label-${place}` });
    const names = [...new Set(groups.map((group) => group.labels[place]))];
    select.append(make("option", "all", { value: "" }), ...names.map((name) => make("option", name, { value: name })));
    field(label, select);
  });
  const where = make("select", "", { name: "where" });
  for (const [value, text] of [["", "in and out of domain"], ["home", "in-domain"], ["away", "out-of-domain, untouched"]]) where.append(make("option", text, { value }));
  field("cells", where);
  field("with picture", make("input", "", { type: "checkbox", name: "drawn" }));
  gallery.querySelectorAll("thead th").forEach((head, column) => {
    const button = make("button", head.textContent, { type: "button" });
    button.addEventListener("click", () => {
      sort = { column, up: sort.column === column ? !sort.up : true };
      update();
    });
    head.replaceChildren(button);
  });
  form.addEventListener("input", () => { shown = STEP; update(); });
  form.addEventListener("submit", (event) => event.preventDefault());
  more.addEventListener("click", () => { shown += STEP; update(); });
  form.hidden = false;
  for (const element of document.querySelectorAll(".unscripted")) element.hidden = true;
  update();
})();
