// Tables are whole without this; it lets a click on a heading sort them.
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.className = "sort";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const up = head.getAttribute("aria-sort") !== "ascending";
      for (const other of heads) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      const key = (body) => {
        const cell = body.rows[0].cells[column];
        const raw = cell.dataset.key ?? cell.textContent.trim();
        const number = raw === "" ? NaN : Number(raw);
        return Number.isNaN(number) ? raw : number;
      };
      const bodies = [...table.tBodies].map((body) => [key(body), body]);
      bodies.sort(([a], [b]) => {
        // What was not measured stays last, whichever way the rest goes.
        if (a === "" || b === "") return (a === "") - (b === "");
        const order = typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b));
        return up ? order : -order;
      });
      table.append(...bodies.map(([, body]) => body));
    });
  });
}
