package health

import (
	"strings"
	"testing"

	"github.com/fluxcd/pkg/apis/kustomize"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

func checkOf(apiVersion, kind, inProgress, failed, current string) kustomize.CustomHealthCheck {
	return kustomize.CustomHealthCheck{APIVersion: apiVersion, Kind: kind, HealthCheckExpressions: kustomize.HealthCheckExpressions{
		InProgress: inProgress, Failed: failed, Current: current,
	}}
}

func decoded(t *testing.T, text string) *unstructured.Unstructured {
	t.Helper()
	u := &unstructured.Unstructured{}
	if err := u.UnmarshalJSON([]byte(text)); err != nil {
		t.Fatal(err)
	}
	return u
}

// TestJudge: the order of the expressions decides, and what cannot be evaluated is waited for.
func TestJudge(t *testing.T) {
	const is = `data.inProgress == 'yes'`
	all := checkOf("x.io/v1", "X", `data.inProgress == 'yes'`, `data.failed == 'yes'`, `data.current == 'yes'`)
	x := func(inProgress, failed, current string) string {
		return `{"apiVersion":"x.io/v2","kind":"X","data":{"inProgress":"` + inProgress + `","failed":"` + failed + `","current":"` + current + `"}}`
	}
	for name, tt := range map[string]struct {
		check  kustomize.CustomHealthCheck
		object string
		want   Status
	}{
		"none":                         {all, x("no", "no", "no"), InProgress},
		"current":                      {all, x("no", "no", "yes"), Current},
		"failed":                       {all, x("no", "yes", "no"), Failed},
		"failed before current":        {all, x("no", "yes", "yes"), Failed},
		"in progress":                  {all, x("yes", "no", "no"), InProgress},
		"in progress before current":   {all, x("yes", "no", "yes"), InProgress},
		"in progress before failed":    {all, x("yes", "yes", "no"), InProgress},
		"in progress before all":       {all, x("yes", "yes", "yes"), InProgress},
		"only current":                 {checkOf("x.io/v1", "X", "", "", `data.current == 'yes'`), x("yes", "yes", "yes"), Current},
		"only current, and it is not":  {checkOf("x.io/v1", "X", "", "", `data.current == 'yes'`), x("yes", "yes", "no"), InProgress},
		"not observed":                 {checkOf("x.io/v1", "X", "", "", "true"), `{"apiVersion":"x.io/v1","kind":"X","metadata":{"generation":2},"status":{"observedGeneration":1}}`, InProgress},
		"observed":                     {checkOf("x.io/v1", "X", "", "", "true"), `{"apiVersion":"x.io/v1","kind":"X","metadata":{"generation":2},"status":{"observedGeneration":2}}`, Current},
		"observed in words":            {checkOf("x.io/v1", "X", "", "", "true"), `{"apiVersion":"x.io/v1","kind":"X","metadata":{"generation":2},"status":{"observedGeneration":"1"}}`, Current},
		"a field is missing":           {all, `{"apiVersion":"x.io/v1","kind":"X"}`, Unknown},
		"missing after the true one":   {checkOf("x.io/v1", "X", `true`, `nothing.here`, `nor.there`), x("", "", ""), InProgress},
		"of another type":              {checkOf("x.io/v1", "X", "", "", `data.current > 1`), x("", "", "yes"), Unknown},
		"neither true nor false":       {checkOf("x.io/v1", "X", "", "", `data.current`), x("", "", "yes"), Unknown},
		"a bomb":                       {checkOf("x.io/v1", "X", "", "", `'a'`+strings.Repeat(".replace('a', 'aaaaaaaaaa')", 50)+` == ''`), x("", "", ""), Unknown},
		"the group":                    {checkOf("x.io/v1", "", "", is, "false"), x("yes", "", ""), Failed},
		"another kind of the group":    {all, `{"apiVersion":"x.io/v1","kind":"Y"}`, Current},
		"the same kind, another group": {all, `{"apiVersion":"y.io/v1","kind":"X"}`, Current},
		"over what kstatus says": {checkOf("apps/v1", "Deployment", "", "", `metadata.name == 'web'`),
			`{"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"web"}}`, Current},
	} {
		t.Run(name, func(t *testing.T) {
			j, err := NewJudge([]kustomize.CustomHealthCheck{tt.check})
			if err != nil {
				t.Fatal(err)
			}
			u := decoded(t, tt.object)
			before := u.DeepCopy()
			first, second := j.Of(u), j.Of(u)
			if first.Status != tt.want {
				t.Errorf("got %s (%s), want %s", first.Status, first.Message, tt.want)
			}
			if first != second {
				t.Errorf("first %v, then %v", first, second)
			}
			if want := Of(before); !j.Judges(u.GroupVersionKind().GroupKind()) && first != want {
				t.Errorf("got %v of a kind that it does not judge, want %v", first, want)
			}
		})
	}
}

// TestJudgeKindBeforeGroup: expressions for a kind count more than those for its group.
func TestJudgeKindBeforeGroup(t *testing.T) {
	j, err := NewJudge([]kustomize.CustomHealthCheck{checkOf("x.io/v1", "", "", "true", "false"), checkOf("x.io/v1", "X", "", "", "true")})
	if err != nil {
		t.Fatal(err)
	}
	for kind, want := range map[string]Status{"X": Current, "Y": Failed} {
		if got := j.Of(decoded(t, `{"apiVersion":"x.io/v1","kind":"`+kind+`"}`)); got.Status != want {
			t.Errorf("%s: %s, want %s", kind, got.Status, want)
		}
	}
}

// TestJudgeKeepsSecrets: why an expression over a Secret could not be evaluated may hold its value, and is not told.
func TestJudgeKeepsSecrets(t *testing.T) {
	j, err := NewJudge([]kustomize.CustomHealthCheck{checkOf("v1", "Secret", "", "", `int(data.password) > 0`)})
	if err != nil {
		t.Fatal(err)
	}
	got := j.Of(decoded(t, `{"apiVersion":"v1","kind":"Secret","data":{"password":"canary"}}`))
	if got.Status != Unknown || strings.Contains(got.Message, "canary") {
		t.Errorf("got %v", got)
	}
}

func TestNewJudge(t *testing.T) {
	if j, err := NewJudge(nil); j != nil || err != nil || j.Judges(schema.GroupKind{Kind: "X"}) {
		t.Errorf("without expressions: %v, %v", j, err)
	}
	good := checkOf("x.io/v1", "X", "a", "b", "c")
	for name, tt := range map[string]struct {
		checks []kustomize.CustomHealthCheck
		says   string
	}{
		"no current":      {[]kustomize.CustomHealthCheck{checkOf("x.io/v1", "X", "a", "b", "")}, "spec.healthCheckExprs[0].current"},
		"bad in progress": {[]kustomize.CustomHealthCheck{good, checkOf("x.io/v1", "Y", "a.", "b", "c")}, "spec.healthCheckExprs[1].inProgress"},
		"bad failed":      {[]kustomize.CustomHealthCheck{checkOf("x.io/v1", "X", "a", "b.", "c")}, "spec.healthCheckExprs[0].failed"},
		"bad version":     {[]kustomize.CustomHealthCheck{checkOf("x/y/z", "X", "a", "b", "c")}, "spec.healthCheckExprs[0].apiVersion"},
		"twice":           {[]kustomize.CustomHealthCheck{good, checkOf("x.io/v2", "X", "", "", "c")}, "spec.healthCheckExprs[1]"},
		"too many":        {make([]kustomize.CustomHealthCheck, maxChecks+1), "129"},
	} {
		if _, err := NewJudge(tt.checks); err == nil || !strings.Contains(err.Error(), tt.says) {
			t.Errorf("%s: %v, which does not name %s", name, err, tt.says)
		}
	}
	digest := func(checks ...kustomize.CustomHealthCheck) string {
		j, err := NewJudge(checks)
		if err != nil {
			t.Fatal(err)
		}
		return j.Digest
	}
	if first, again := digest(good), digest(good); first != again || first == digest(checkOf("x.io/v1", "X", "a", "b", "d")) {
		t.Error("a digest is not of the expressions")
	}
}
