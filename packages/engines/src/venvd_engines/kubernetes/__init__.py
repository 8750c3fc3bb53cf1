"""The kubernetes engine: a backend is a pod, pods build images, and a registry keeps them."""
