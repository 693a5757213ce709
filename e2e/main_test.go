package e2e_test

import (
	"os"
	"testing"

	"github.com/cleat-dev/cleat/e2e/testenv"
)

func TestMain(m *testing.M) { os.Exit(testenv.Main(m)) }
