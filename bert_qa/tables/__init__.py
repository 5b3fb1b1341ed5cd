"""Tables of questions, whatever their format, and the tables of answers made from them."""
