"""Tools that know nothing of labs: errors, files, processes, waiting, settings, YAML. Imports no other room."""
