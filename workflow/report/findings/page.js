"use strict";
// A table is made when it is opened: a page of many thousand rows opens at once.
const MOST = 500; // rows drawn at once
const tables = JSON.parse(document.getElementById("data").textContent);
const numeric = (text) => text !== "" && !Number.isNaN(Number(text));
const shown = (text) =>
  numeric(text) && text.includes(".") ? String(Number(Number(text).toPrecision(4))) : text;

function element(name, text, attributes = {}) {
  const made = document.createElement(name);
  made.textContent = text;
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

function fill(details) {
  const table = tables.find((one) => one.name === details.dataset.table);
  const label = element("label", "Rows that contain ");
  const filter = element("input", "", { type: "search" });
  label.append(filter);
  const count = element("span", "", { class: "quiet", role: "status" });
  label.append(" ", count);
  const region = element("div", "", {
    class: "scroll", tabindex: "0", role: "region", "aria-label": `${table.name}.tsv`,
  });
  const grid = element("table", "");
  const head = grid.createTHead().insertRow();
  const body = grid.createTBody();
  const isNumber = table.columns.map((_, at) =>
    table.rows.every((row) => row[at] === "" || numeric(row[at])));
  let sorted = { at: -1, sign: 1 };
  let whole = false;
  const more = element("button", "", { type: "button" });
  more.addEventListener("click", () => {
    whole = true;
    draw();
  });

  function rows() {
    const wanted = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
    const found = table.rows.filter((row) => {
      const text = row.join("\t").toLowerCase();
      return wanted.every((word) => text.includes(word));
    });
    const { at, sign } = sorted;
    if (at < 0) return found;
    return found.slice().sort((one, other) => {
      // What is empty comes last, whichever way.
      if ((one[at] === "") !== (other[at] === "")) return one[at] === "" ? 1 : -1;
      const by = isNumber[at]
        ? Number(one[at]) - Number(other[at])
        : one[at].localeCompare(other[at]);
      return sign * by;
    });
  }

  function draw() {
    const found = rows();
    const some = whole ? found : found.slice(0, MOST);
    count.textContent = `${found.length} of ${table.rows.length}`;
    more.hidden = some.length === found.length;
    more.textContent = `Show all ${found.length}`;
    body.replaceChildren(...some.map((row) => {
      const line = document.createElement("tr");
      row.forEach((text, at) => {
        const cell = element("td", shown(text));
        if (isNumber[at]) cell.className = "number";
        if (cell.textContent !== text) cell.title = text;
        line.append(cell);
      });
      return line;
    }));
    for (const [at, cell] of [...head.cells].entries()) {
      const way = sorted.sign > 0 ? "ascending" : "descending";
      cell.setAttribute("aria-sort", at === sorted.at ? way : "none");
      cell.querySelector("span").textContent = at === sorted.at ? (sorted.sign > 0 ? " ▲" : " ▼") : "";
    }
  }

  table.columns.forEach((name, at) => {
    const cell = element("th", "", { scope: "col" });
    const button = element("button", name, { type: "button" });
    button.append(element("span", "", { "aria-hidden": "true" }));
    button.addEventListener("click", () => {
      sorted = { at, sign: sorted.at === at ? -sorted.sign : 1 };
      draw();
    });
    cell.append(button);
    if (isNumber[at]) cell.className = "number";
    head.append(cell);
  });
  filter.addEventListener("input", draw);
  region.append(grid);
  details.append(label, region, more);
  draw();
}

for (const details of document.querySelectorAll("details.table")) {
  details.addEventListener("toggle", () => {
    if (details.open && !details.querySelector("table")) fill(details);
  });
}

// What is closed would not be printed; tables are not printed anyhow.
addEventListener("beforeprint", () => {
  for (const details of document.querySelectorAll("#examples details")) details.open = true;
});
