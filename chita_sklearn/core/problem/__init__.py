"""Problems: what is minimised, and the products that the algorithms need."""
