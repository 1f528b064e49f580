// A WASI command that does what the subject of its message says: one process for each message.
package main

import (
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
)

const retry = 75 // EX_TEMPFAIL

func fail(code int, reason string) {
	fmt.Fprintln(os.Stderr, reason)
	os.Exit(code)
}

func main() {
	verb, rest, _ := strings.Cut(os.Getenv("SANDPOST_SUBJECT"), " ")
	switch verb {
	case "ack":
	case "retry":
		fail(retry, rest)
	case "reject":
		fail(1, rest)
	case "exit":
		code, _ := strconv.Atoi(rest)
		os.Exit(code)
	case "throw":
		panic(rest)
	case "loop":
		for {
			turns++
		}
	case "hog":
		for {
			hoard = append(hoard, []byte(strings.Repeat("x", 1<<20)))
		}
	case "lines":
		count, _ := strconv.Atoi(rest)
		for line := range count {
			fmt.Println("line", line)
		}
	case "env":
		variables := os.Environ()
		slices.Sort(variables)
		fmt.Println(strings.Join(variables, "\n"))
	case "args":
		fmt.Println(strings.Join(os.Args, " "))
	case "stdin":
		if _, err := io.Copy(os.Stdout, os.Stdin); err != nil {
			fail(retry, err.Error())
		}
	case "garbage":
		bytes, _ := strconv.Atoi(rest)
		for ; bytes >= 1024; bytes -= 1024 {
			garbage = make([]byte, 1024)
		}
	default:
		fail(1, "unknown order "+os.Getenv("SANDPOST_SUBJECT"))
	}
}

var (
	turns   uint
	hoard   [][]byte
	garbage []byte
)
