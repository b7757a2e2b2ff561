"""Images in files: archives that hold a Docker archive and an OCI image layout in one."""
