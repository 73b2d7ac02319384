"""Everything done with a trained localizer: photos, folders of photos, export, the web page."""
