"""Operations as generators, and the two drivers that carry them out."""
