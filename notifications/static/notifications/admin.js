// What unfold's pages lack, under this project's Content-Security-Policy and for screen readers.

// htmx, which unfold brings, would write its own inline style sheet, which the policy forbids; the little that is needed
// of it is in admin_theme.css.
htmx.config.includeIndicatorStyles = false;

// unfold says nowhere what a page's main part is. The form to sign in has a page without a menu.
document.addEventListener("DOMContentLoaded", () => {
  document.querySelector("#main, .login #page")?.setAttribute("role", "main");
});

// unfold's style sheet has room for the sidebar from 1280 px on, but its script hides it up to 1280 px. The first of its
// widths has the sidebar too.
const SIDEBAR_WIDTH = 1280;
document.addEventListener("alpine:init", () => {
  const theme = globalThis.theme;
  const isWanted = () => innerWidth >= SIDEBAR_WIDTH && localStorage.getItem("sidebarOpen") !== "0";
  globalThis.theme = (...options) => {
    const data = theme(...options);
    data.sidebarOpen = isWanted();
    data.sidebarToggle = function () {
      this.sidebarOpen = !this.sidebarOpen;
      if (innerWidth >= SIDEBAR_WIDTH) localStorage.setItem("sidebarOpen", this.sidebarOpen ? "1" : "0");
    };
    data.themeBindings["x-resize.window"] = function () {
      this.sidebarOpen = isWanted();
    };
    return data;
  };
});
