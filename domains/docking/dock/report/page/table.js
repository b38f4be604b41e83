// The table of complexes: search, sort, choose.

const ROWS_AT_ONCE = 200;
const COLLATOR = new Intl.Collator("en", { numeric: true });

class ComplexTable {
  constructor(rows, choose) {
    this.rows = rows;
    this.choose = choose;
    this.columns = this.makeColumns();
    this.order = rows.some((row) => present(row.confidence)) ? { key: "confidence", down: true } : { key: "id", down: false };
    this.shown = ROWS_AT_ONCE;
    this.chosen = null;
    byId("search").addEventListener("input", () => { this.shown = ROWS_AT_ONCE; this.draw(); });
    byId("more").addEventListener("click", () => { this.shown = Infinity; this.draw(); });
    byId("sort").append(...this.columns.map((column) => el("option", { value: column.key }, column.title)));
    byId("sort").addEventListener("change", (event) => this.sortBy(event.target.value, true));
    byId("complexes").append(this.head(), el("tbody"));
    this.draw();
  }

  makeColumns() {
    const scores = [...new Set(this.rows.flatMap((row) => Object.keys(row.rescores ?? {})))];
    const columns = [
      { key: "id", title: "Complex", value: (row) => row.id },
      { key: "ligand", title: "Ligand", value: (row) => row.ligand },
      { key: "confidence", title: "Best confidence", value: (row) => row.confidence, down: true },
      { key: "flags", title: "Flags", value: (row) => (row.flags ?? []).length },
    ];
    if (this.rows.some((row) => present(row.pb_valid))) {
      columns.push({ key: "valid", title: "PB-valid", value: (row) => (present(row.pb_valid) ? Number(row.pb_valid) : null) });
    }
    for (const name of scores) {
      const down = name !== "vina";
      columns.push({ key: `score ${name}`, title: rescore(name).name, value: (row) => row.rescores?.[name], score: name, down });
    }
    return columns;
  }

  head() {
    this.headers = new Map();
    for (const column of this.columns) {
      const button = el("button", { type: "button", click: () => this.sortBy(column.key, false) }, column.title);
      const hint = ["id", "ligand"].includes(column.key) ? null : "of the pose of rank 1";
      this.headers.set(column.key, el("th", { scope: "col", title: hint }, button));
    }
    return el("thead", {}, el("tr", {}, [...this.headers.values()]));
  }

  sortBy(key, fresh) {
    const column = this.columns.find((one) => one.key === key);
    const again = !fresh && this.order.key === key;
    this.order = { key, down: again ? !this.order.down : Boolean(column.down) };
    this.draw();
  }

  matching() {
    const wanted = byId("search").value.trim().toLowerCase().split(/\s+/);
    const text = (row) => [row.id, row.ligand, row.confidence_band, ...(row.flags ?? [])].join(" ").toLowerCase();
    const { value } = this.columns.find((column) => column.key === this.order.key);
    const sign = this.order.down ? -1 : 1;
    return this.rows
      .filter((row) => wanted.every((word) => text(row).includes(word)))
      .sort((a, b) => {
        const [x, y] = [value(a), value(b)];
        if (!present(x) || !present(y)) return Number(present(y)) - Number(present(x)); // what has no value comes last
        return sign * (typeof x === "string" ? COLLATOR.compare(x, y) : x - y);
      });
  }

  draw() {
    const rows = this.matching();
    for (const [key, header] of this.headers) {
      if (key === this.order.key) header.setAttribute("aria-sort", this.order.down ? "descending" : "ascending");
      else header.removeAttribute("aria-sort");
    }
    byId("sort").value = this.order.key;
    byId("matches").textContent =
      rows.length === this.rows.length ? "" : `${rows.length} of ${plural(this.rows.length, "complex", "complexes")}`;
    byId("more").hidden = rows.length <= this.shown;
    byId("more").textContent = `Show all ${rows.length}`;
    byId("complexes").tBodies[0].replaceChildren(...rows.slice(0, this.shown).map((row) => this.line(row)));
  }

  line(row) {
    const cells = this.columns.map((column) => this.cell(column, row));
    const chosen = row === this.chosen;
    return el("tr", { class: chosen ? "chosen" : null, click: () => this.choose(row) }, cells);
  }

  cell(column, row) {
    if (column.key === "id") {
      const state = row === this.chosen ? "true" : null;
      return el("td", { class: "identity" }, el("button", { type: "button", class: "id", "aria-current": state }, row.id));
    }
    if (column.key === "ligand") return el("td", { class: row.ligand ? null : "empty" }, row.ligand);
    if (column.key === "confidence") return el("td", {}, bandBadge(row.confidence, row.confidence_band));
    if (column.key === "flags") {
      const pills = flagPills(row.flags);
      return el("td", { class: pills.length ? null : "empty" }, pills.length ? pills : el("span", { class: "quiet" }, "none"));
    }
    const value = column.value(row);
    const label = { "data-label": column.title, class: present(value) ? "figure" : "empty" };
    if (column.key === "valid") return el("td", label, present(value) ? verdict(value === 1, "valid", "not valid") : "\u2013");
    return el("td", label, number(value, rescore(column.score).digits));
  }

  mark(row) {
    this.chosen = row;
    const focused = document.activeElement?.classList.contains("id");
    this.draw();
    if (focused) byId("complexes").querySelector("tr.chosen button")?.focus();
  }
}
