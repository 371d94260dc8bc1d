"""Frame pairs for pre-training: where videos are, how single frames are read, which pairs are drawn and how they are cut."""
