"""Questions as files: what changes when one thing about a localizer or its training changes."""
