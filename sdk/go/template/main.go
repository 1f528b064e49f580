package main

import "sandpost"

func init() { sandpost.Handle(handle) }

func main() {}
