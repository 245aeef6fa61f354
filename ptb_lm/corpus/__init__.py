"""From text to columns of word indices: download, vocabulary, synthetic language, batching."""
