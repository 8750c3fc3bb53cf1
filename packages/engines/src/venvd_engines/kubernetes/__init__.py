"""The kubernetes engine: a backend is a pod, and images are built by pods and kept in a registry."""
