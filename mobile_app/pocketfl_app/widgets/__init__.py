"""The app's own widgets: the page one draws on, bars, chart, gauges, icons, buttons."""
