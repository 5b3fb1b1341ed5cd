"""Ways to answer compared: this project beside other libraries. Not installed with bert_qa."""
