"""Code that several processes of a worker host share. The local engine uses it too."""
