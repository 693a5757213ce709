// Command hello is a program to make an image of.
package main

import "fmt"

func main() { fmt.Println("hello") }
