// Select2, which Django's admin brings for fields that are filled by searching, gives what it makes no name: a screen
// reader says "edit text". Here each part gets the name of the field's label.
{
  const labelOf = (select) => {
    const [label] = select.labels;
    if (label) label.id ||= `${select.id}_label`;
    return label?.id;
  };

  const nameParts = () => {
    for (const select of document.querySelectorAll("select.select2-hidden-accessible")) {
      const label = labelOf(select);
      const box = select.parentElement.querySelector(".select2-selection");
      if (!label || !box) continue;
      const value = box.querySelector(".select2-selection--single > .select2-selection__rendered");
      value?.setAttribute("aria-labelledby", label);
      // Its own name is what is chosen, which may be nothing.
      if (value) box.setAttribute("aria-labelledby", `${label} ${value.id}`);
      box.querySelector(".select2-search__field")?.setAttribute("aria-labelledby", label);
    }
  };

  addEventListener("load", () => {
    const jQuery = window.django?.jQuery;
    // After Django's own, which makes them.
    jQuery?.(nameParts);
    // The field to search in, of a list that has opened beneath the page. Select2 tells jQuery alone.
    jQuery?.(document).on("select2:open", ({ target }) => {
      const label = labelOf(target);
      if (!label) return;
      for (const part of document.querySelectorAll(".select2-dropdown :is(.select2-search__field, [role=listbox])")) {
        part.setAttribute("aria-labelledby", label);
      }
    });
  });
  // Likewise.
  document.addEventListener("formset:added", () => setTimeout(nameParts));
}
