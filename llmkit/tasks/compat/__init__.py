"""The pipelines that transformers 5 removed, called as transformers 4.57 called them and answering as it did."""
