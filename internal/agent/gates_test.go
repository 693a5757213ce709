package agent

import "testing"

func TestParseGates(t *testing.T) {
	gates, err := parseGates(" MigrateAPIVersion=true, StrictPostBuildSubstitutions=false,ExternalArtifact=true,DisableStatusPollerCache=false,AdditiveCELDependencyCheck=true,DefaultToRetryOnFailure=true,")
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]bool{
		migrateAPIVersion: true, additiveReadyExpr: true, strictSubstitution: false, workloadIdentity: false, "ExternalArtifact": true, "GroupChangeLog": false,
		retryOnFailure: true, helm3Defaults: false, allowDNSLookups: false, disableChartDigests: false,
	} {
		if gates[name] != want {
			t.Errorf("%s is %t", name, gates[name])
		}
	}
	for name, g := range fluxGates() {
		if len(g.choices) == 0 || len(g.choices) == 1 && (g.choices[0] != g.is || g.why == "") {
			t.Errorf("%s is %t, may be %v, and says %q", name, g.is, g.choices, g.why)
		}
	}
}
