// What unfold's pages lack, under this project's Content-Security-Policy and for screen readers.

// htmx, which unfold brings, would write its own inline style sheet, which the policy forbids; the little that is needed
// of it is in admin_theme.css.
htmx.config.includeIndicatorStyles = false;

// unfold says nowhere what a page's main part is. The form to sign in has a page without a menu.
document.addEventListener("DOMContentLoaded", () => {
  document.querySelector("#main, .login #page")?.setAttribute("role", "main");
});
