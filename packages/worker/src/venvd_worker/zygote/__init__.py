"""The zygote: the process that has imported the preload list and is forked into sessions."""
