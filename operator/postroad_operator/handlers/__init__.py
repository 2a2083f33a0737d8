"""The operator: watch, compile, publish, ask the pods, say so. kopf watches; one loop does the rest."""
