"""HTTP only: parameters in, one question to the store or one pure function, an answer out."""
