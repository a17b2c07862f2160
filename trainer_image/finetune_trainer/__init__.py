"""The trainer image: download, train and export one FineTuneJob, on a CPU, a GPU or many nodes."""
