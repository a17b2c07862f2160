"""The API of FineTuneJob: the one source of its schema, its defaults, its arithmetic and its error messages.

Imported by the operator, the trainer and the CLI; imports none of them, nor any training library or Kubernetes client.
"""
