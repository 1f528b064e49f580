module {{name}}

go 1.24

require sandpost v0.0.0

replace sandpost => ./sandpost
