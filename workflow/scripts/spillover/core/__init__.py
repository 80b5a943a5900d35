"""What every stage needs: errors, files, logs, provenance, configuration, downloads."""
