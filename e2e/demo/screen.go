package main

import (
	"fmt"
	"io"
	"os"
	"regexp"
	"strings"
	"sync"
	"text/tabwriter"
	"time"
)

// generated matches the hash that kustomize appends to the name of a generated ConfigMap.
var generated = regexp.MustCompile(`-[a-z0-9]{10}$`)

// screen prints for a person: with colours and a line that counts on a terminal, plainly elsewhere.
type screen struct {
	w        io.Writer
	terminal bool
}

func newScreen(f *os.File) *screen {
	info, err := f.Stat()
	terminal := err == nil && info.Mode()&os.ModeCharDevice != 0 && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"
	return &screen{w: f, terminal: terminal}
}

const (
	bold  = "1"
	faint = "2"
	red   = "31"
	green = "32"
)

func (s *screen) style(code, text string) string {
	if !s.terminal {
		return text
	}
	return "\x1b[" + code + "m" + text + "\x1b[0m"
}

// progress prints what is being done, and the seconds it has taken so far when it takes long. The function that it returns
// ends the line; it must be called once.
func (s *screen) progress(what string) (done func(error)) {
	begin := time.Now()
	stop := make(chan struct{})
	var counting sync.WaitGroup
	counting.Go(func() { s.count(what, begin, stop) })
	return func(err error) {
		close(stop)
		counting.Wait()
		result := s.style(green, "done")
		if err != nil {
			result = s.style(red, "failed")
		}
		if s.terminal {
			fmt.Fprint(s.w, "\r\x1b[K")
		}
		fmt.Fprintf(s.w, "%s  %s\n", s.result(result, time.Since(begin)), what)
	}
}

// count shows the time that passes: in place on a terminal, by a line each half minute elsewhere.
func (s *screen) count(what string, begin time.Time, stop <-chan struct{}) {
	every := 30 * time.Second
	if s.terminal {
		every = time.Second
		fmt.Fprintf(s.w, "%s  %s", s.style(faint, "   ...      "), what)
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-stop:
			return
		case <-tick.C:
			line := fmt.Sprintf("%s  %s", s.style(faint, fmt.Sprintf("   ... %4.0fs", time.Since(begin).Seconds())), what)
			if s.terminal {
				fmt.Fprint(s.w, "\r\x1b[K", line)
			} else {
				fmt.Fprintln(s.w, line)
			}
		}
	}
}

// result is the left column: how it went and how long it took.
func (s *screen) result(word string, took time.Duration) string {
	return word + s.style(faint, fmt.Sprintf("%8s", short(took)))
}

func (s *screen) heading(text, commit, message string) {
	fmt.Fprintf(s.w, "\n%s\n%s\n", s.style(bold, text), s.style(faint, fmt.Sprintf("    pushed    %.8s  %q", commit, message)))
}

func (s *screen) milestone(after time.Duration, text string) {
	word, rest, _ := strings.Cut(text, ": ")
	fmt.Fprintf(s.w, "%s  %s %s\n", s.style(bold, fmt.Sprintf("%12s", "+"+short(after))), s.style(green, fmt.Sprintf("%-8s", word)), rest)
}

func (s *screen) table(header []string, rows [][]string) {
	var text strings.Builder
	table := tabwriter.NewWriter(&text, 0, 0, 3, ' ', 0)
	fmt.Fprintln(table, strings.Join(header, "\t"))
	for _, row := range rows {
		fmt.Fprintln(table, strings.Join(row, "\t"))
	}
	_ = table.Flush() // A strings.Builder takes everything.
	first, rest, _ := strings.Cut(text.String(), "\n")
	fmt.Fprintf(s.w, "\n%s\n%s\n", s.style(bold, first), rest)
}

func (s *screen) lines(lines ...string) {
	for _, line := range lines {
		fmt.Fprintln(s.w, line)
	}
}

// short rounds a duration to what a person reads.
func short(d time.Duration) string {
	if d < time.Second {
		return fmt.Sprintf("%d ms", d.Milliseconds())
	}
	return fmt.Sprintf("%.1f s", d.Seconds())
}
