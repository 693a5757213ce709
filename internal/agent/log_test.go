package agent

import (
	"bytes"
	"log"
	"strings"
	"testing"
)

// TestA17_NoLibraryEndsTheAgent: log.Fatal is a panic that its caller's caller can recover from; other lines are logged.
func TestA17_NoLibraryEndsTheAgent(t *testing.T) {
	var out bytes.Buffer
	logger := log.New(survivor{newLogger(&out, "info", "json")}, "", 0)
	logger.Print("only a line")
	if !strings.Contains(out.String(), `"line":"only a line"`) {
		t.Errorf("logged %q", out.String())
	}
	for name, fatal := range map[string]func(){
		"Fatal":   func() { logger.Fatal("gone") },
		"Fatalf":  func() { logger.Fatalf("%s", "gone") },
		"Fatalln": func() { logger.Fatalln("gone") },
	} {
		func() {
			defer func() {
				if cause, _ := recover().(string); !strings.HasSuffix(cause, "gone") {
					t.Errorf("%s: recovered %q", name, cause)
				}
			}()
			fatal()
		}()
	}
}
