package agent

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/fluxcd/pkg/auth"
)

// The feature gates that choose something here.
const (
	strictSubstitution = "StrictPostBuildSubstitutions"
	migrateAPIVersion  = "MigrateAPIVersion"
	additiveReadyExpr  = "AdditiveCELDependencyCheck"
	workloadIdentity   = auth.FeatureGateObjectLevelWorkloadIdentity

	allowDNSLookups     = "AllowDNSLookups"
	disableChartDigests = "DisableChartDigestTracking"
	helm3Defaults       = "UseHelm3Defaults"
	retryOnFailure      = "DefaultToRetryOnFailure"
)

// gate is a feature gate of Flux's: what it is set to when nobody says, and what it may be set to.
type gate struct {
	is      bool
	choices []bool
	// why says, for a gate with one choice, why there is no other.
	why string
}

var (
	either    = []bool{false, true}
	onlyTrue  = []bool{true}
	onlyFalse = []bool{false}
)

// fluxGates are the gates of Flux's that this version knows, for the controllers whose work it does. One that would change
// something that it cannot change is an error: it must not seem to be on. Some change nothing that can be seen here.
func fluxGates() map[string]gate {
	return map[string]gate{
		strictSubstitution:               {is: true, choices: either},
		migrateAPIVersion:                {choices: either},
		workloadIdentity:                 {choices: either},
		"CacheSecretsAndConfigMaps":      {choices: either},
		"DisableStatusPollerCache":       {is: true, choices: either},
		"CancelHealthCheckOnNewRevision": {is: true, choices: onlyTrue, why: "a new revision always ends the wait for an older one"},
		"ExternalArtifact":               {is: true, choices: onlyTrue, why: "ExternalArtifacts are always served"},
		additiveReadyExpr:                {choices: either},
		"DirectSourceFetch":              {choices: onlyFalse, why: "sources are read from the cache that their watches fill"},
		"DisableConfigWatchers":          {choices: onlyFalse, why: "choose what is watched with --watch-configs-label-selector"},
		"DisableFailFastBehavior":        {choices: onlyFalse, why: "a failed object always ends the wait, and one that heals makes its Kustomization ready"},
		allowDNSLookups:                  {choices: either},
		disableChartDigests:              {choices: either},
		helm3Defaults:                    {choices: either},
		retryOnFailure:                   {choices: either},
		"AdoptLegacyReleases":            {choices: either},
		"OOMWatch":                       {choices: either},
		"CorrectDrift":                   {is: true, choices: either},
		"DetectDrift":                    {choices: onlyFalse, why: "set spec.driftDetection of the HelmReleases"},
		"GroupChangeLog":                 {choices: onlyFalse, why: "it is not supported"},
	}
}

// knownGates lists the gates for the flag's description.
func knownGates() string {
	var known []string
	for name, g := range fluxGates() {
		known = append(known, fmt.Sprintf("%s (%t)", name, g.is))
	}
	slices.Sort(known)
	return "known: " + strings.Join(known, ", ")
}

// parseGates reads --feature-gates. A gate of Flux's that this version does not know is an error, not a surprise later.
func parseGates(text string) (map[string]bool, error) {
	gates := fluxGates()
	set := make(map[string]bool, len(gates))
	for name, g := range gates {
		set[name] = g.is
	}
	for entry := range strings.SplitSeq(text, ",") {
		entry = strings.TrimSpace(entry)
		if entry == "" {
			continue
		}
		name, value, _ := strings.Cut(entry, "=")
		g, known := gates[name]
		if !known {
			return nil, fmt.Errorf("--feature-gates: %q is not known; known are %s", entry, strings.Join(slices.Sorted(maps.Keys(gates)), ", "))
		}
		on, err := strconv.ParseBool(value)
		if err != nil {
			return nil, fmt.Errorf("--feature-gates: %q is neither %s=true nor %s=false", entry, name, name)
		}
		if !slices.Contains(g.choices, on) {
			return nil, fmt.Errorf("--feature-gates: %s cannot be %t: %s", name, on, g.why)
		}
		set[name] = on
	}
	return set, nil
}
