"""The transport tier: accepts mail, queues it durably, delivers it. Knows nothing of Kubernetes."""
