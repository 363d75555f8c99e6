// htmx, which unfold brings, would write its own inline style sheet, which the Content-Security-Policy forbids; the
// little that is needed of it is in admin_theme.css.
htmx.config.includeIndicatorStyles = false;
