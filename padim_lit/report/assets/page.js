"use strict";
// What every page does: tables sort by any column, and paper shows what is folded.

/** Makes the heads of a table buttons. A cell sorts by its data-value, a number, else by its text; rows of class mean stay last. */
function sortable(table) {
  const body = table.tBodies[0], heads = [...table.tHead.rows[0].cells];
  const key = (row, index) => {
    const cell = row.cells[index];
    if (heads[index].classList.contains("word")) return cell.textContent;
    return cell.dataset.value ? Number(cell.dataset.value) : null;
  };
  heads.forEach((head, index) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = head.dataset.name = head.textContent;
    head.replaceChildren(button);
    button.addEventListener("click", () => {
      const falling = head.getAttribute("aria-sort") === "ascending";
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", falling ? "descending" : "ascending");
      const order = (a, b) => {
        const late = a.classList.contains("mean") - b.classList.contains("mean");
        const [x, y] = [key(a, index), key(b, index)];
        // What is missing comes last, whichever way.
        if (late || x === null || y === null) return late || (x === null) - (y === null);
        const sign = typeof x === "number" ? x - y : x.localeCompare(y, "en", { numeric: true });
        return falling ? -sign : sign;
      };
      body.append(...[...body.rows].sort(order));
    });
  });
  return table;
}

document.querySelectorAll("thead").forEach((head) => sortable(head.parentElement));

const unfolded = [];
window.addEventListener("beforeprint", () => {
  for (const one of document.querySelectorAll("details:not([open])")) {
    one.open = true;
    unfolded.push(one);
  }
});
window.addEventListener("afterprint", () => unfolded.splice(0).forEach((one) => (one.open = false)));
