// Shows unfold's sidebar on windows of 1280 pixels or more. A project adds this script to its UNFOLD["SCRIPTS"].
//
// Owns when the sidebar is open. Does not own the sidebar: unfold's style sheet has room for it at 1280 pixels, but unfold's
// script hides it there.

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
