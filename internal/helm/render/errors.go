package render

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
	"text/template"
)

// What a chart says by `required` and `fail` is put between these, so that it can be told without all that is around it.
const (
	warnStart = "HELM_ERR_START"
	warnEnd   = "HELM_ERR_END"
)

var warned = regexp.MustCompile(warnStart + `((?s).*)` + warnEnd)

// parseError says what is wrong with the text of a template in Helm's words: the file and line, and the last of what follows.
func parseError(file string, err error) error {
	parts := strings.Split(err.Error(), ": ")
	if len(parts) == 1 {
		return fmt.Errorf("parse error in (%s): %w", file, err)
	}
	return fmt.Errorf("parse error at (%s): %s", parts[1], parts[len(parts)-1])
}

// execError says what went wrong in running a template in Helm's words: what the chart itself says, with the file and line it
// was run at; otherwise all that text/template says. A limit that was met is told like what the chart says.
func execError(file string, limit error, err error) error {
	var exec template.ExecError
	if !errors.As(err, &exec) {
		if limit != nil {
			return fmt.Errorf("execution error in (%s): %w", file, limit)
		}
		return err
	}
	parts := strings.SplitN(err.Error(), ": ", 3)
	if len(parts) != 3 {
		return fmt.Errorf("execution error in (%s): %w", file, err)
	}
	if limit != nil {
		return fmt.Errorf("execution error at (%s): %w", parts[1], limit)
	}
	if said := warned.FindStringSubmatch(parts[2]); said != nil {
		return fmt.Errorf("execution error at (%s): %s", parts[1], said[1])
	}
	return err
}
