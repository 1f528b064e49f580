module sandpost

go 1.24
