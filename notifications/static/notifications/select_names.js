// Gives accessible names to the parts of Select2, which Django's admin uses for fields with a search. Select2 does not
// name them, so a screen reader only says "edit text". Here each part gets the field's label.
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
      // Select2 uses only the chosen value as the name, which may be empty.
      if (value) box.setAttribute("aria-labelledby", `${label} ${value.id}`);
      box.querySelector(".select2-search__field")?.setAttribute("aria-labelledby", label);
    }
  };

  addEventListener("load", () => {
    const jQuery = window.django?.jQuery;
    // After Django's own script, which creates the parts.
    jQuery?.(nameParts);
    // The search field of an open list is outside the form. Select2's event only reaches jQuery listeners.
    jQuery?.(document).on("select2:open", ({ target }) => {
      const label = labelOf(target);
      if (!label) return;
      for (const part of document.querySelectorAll(".select2-dropdown :is(.select2-search__field, [role=listbox])")) {
        part.setAttribute("aria-labelledby", label);
      }
    });
  });
  // A row that is added to a formset has new parts.
  document.addEventListener("formset:added", () => setTimeout(nameParts));
}
