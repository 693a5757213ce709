package main

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestOptions(t *testing.T) {
	for _, test := range []struct {
		name string
		args string
		want string // of the error; empty when there is none
	}{
		{"an archive of two platforms", "-oci a.tar linux/amd64 linux/arm64", ""},
		{"files of one platform", "-root dir linux/arm64", ""},
		{"no platform", "-oci a.tar", "no platform is named"},
		{"nothing to write", "linux/amd64", "nothing is asked for"},
		{"files of two platforms", "-root dir linux/amd64 linux/arm64", "are of one platform"},
		{"Docker's archive of two platforms", "-docker d.tar linux/amd64 linux/arm64", "are of one platform"},
		{"an unknown flag", "-x linux/amd64", "flag provided but not defined"},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := parse(strings.Fields(test.args))
			if test.want == "" && err != nil || test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)) {
				t.Errorf("got %v, want an error with %q", err, test.want)
			}
		})
	}
	o, err := parse([]string{"-oci", "a.tar", "-created", "1700000000", "-version", "v1", "linux/amd64"})
	if err != nil || o.Release.Version != "v1" || !o.Release.Created.Equal(time.Unix(1_700_000_000, 0)) {
		t.Errorf("got %+v, %v", o, err)
	}
}

func TestEnvironmentIsWhatGoCallsThePlatform(t *testing.T) {
	for _, test := range []struct {
		platform string
		want     []string
	}{
		{"linux/amd64", []string{"GOOS=linux", "GOARCH=amd64", "GOAMD64=v1"}},
		{"linux/arm64", []string{"GOOS=linux", "GOARCH=arm64", "GOARM64=v8.0"}},
		{"linux/arm/v7", []string{"GOOS=linux", "GOARCH=arm", "GOARM=7"}},
	} {
		got := environment(test.platform)
		for _, want := range append(test.want, "CGO_ENABLED=0") {
			if !slices.Contains(got, want) {
				t.Errorf("%s: %v lacks %s", test.platform, got, want)
			}
		}
	}
}

func TestNoHalfOfAFileKeepsTheName(t *testing.T) {
	path := filepath.Join(t.TempDir(), "new", "image.tar")
	err := write(path, func(w io.Writer) error {
		if _, err := w.Write([]byte("half")); err != nil {
			return err
		}
		return io.ErrUnexpectedEOF
	})
	if err == nil {
		t.Error("the error is lost")
	}
	if left, err := os.ReadDir(filepath.Dir(path)); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v (%v)", left, err)
	}
	if err := write(path, func(w io.Writer) error { _, err := w.Write([]byte("whole")); return err }); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, []byte("whole")) {
		t.Errorf("got %q, %v", got, err)
	}
}
