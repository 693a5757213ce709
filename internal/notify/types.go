package notify

import (
	"context"
	"slices"

	alerting "github.com/fluxcd/notification-controller/api/v1beta3"
)

// Types that Flux's documentation has and its API module does not name yet.
const (
	zoomProvider     = "zoom"
	incidentProvider = "incident.io"
)

// tell tells a Provider of one type a message.
type tell func(ctx context.Context, t *target, m *Message) error

// teller returns how a type is told; nil when there is no such type.
func teller(kind string) tell {
	switch kind {
	// What hears the event as it is.
	case alerting.GenericProvider, alerting.GenericHMACProvider:
		return tellGeneric
	case alerting.GitHubDispatchProvider:
		return tellDispatch
	case alerting.NATSProvider:
		return tellNATS
	case alerting.GooglePubSubProvider:
		return tellPubSub
	case alerting.AzureEventHubProvider:
		return tellEventHub
	case alerting.OTELProvider:
		return tellOTel
	// What people read.
	case alerting.SlackProvider:
		return tellSlack
	case alerting.RocketProvider:
		return tellRocket
	case alerting.DiscordProvider:
		return tellDiscord
	case alerting.MSTeamsProvider:
		return tellTeams
	case alerting.GoogleChatProvider:
		return tellGoogleChat
	case alerting.WebexProvider:
		return tellWebex
	case alerting.TelegramProvider:
		return tellTelegram
	case alerting.LarkProvider:
		return tellLark
	case alerting.Matrix:
		return tellMatrix
	case alerting.ZulipProvider:
		return tellZulip
	case zoomProvider:
		return tellZoom
	// What keeps incidents, and what draws them.
	case alerting.AlertManagerProvider:
		return tellAlertmanager
	case alerting.OpsgenieProvider:
		return tellOpsgenie
	case alerting.PagerDutyProvider:
		return tellPagerDuty
	case alerting.DataDogProvider:
		return tellDatadog
	case alerting.GrafanaProvider:
		return tellGrafana
	case alerting.SentryProvider:
		return tellSentry
	case incidentProvider:
		return tellIncident
	}
	// What is said about a commit, or about a change that is asked for.
	switch {
	case commentsOn(kind):
		return tellComment
	case keepsStatus(kind):
		return tellCommit
	}
	return nil
}

// commentsOn says whether the type writes comments on change requests.
func commentsOn(kind string) bool {
	return slices.Contains([]string{
		alerting.GitHubPullRequestCommentProvider, alerting.GitLabMergeRequestCommentProvider, alerting.GiteaPullRequestCommentProvider,
	}, kind)
}

// keepsStatus says whether the type sets the status of commits.
func keepsStatus(kind string) bool {
	return slices.Contains([]string{
		alerting.GitHubProvider, alerting.GitLabProvider, alerting.GiteaProvider,
		alerting.BitbucketProvider, alerting.BitbucketServerProvider, alerting.AzureDevOpsProvider,
	}, kind)
}

// wants says whether a type is to be told a message at all.
func wants(kind string, m *Message) bool {
	generic := kind == alerting.GenericProvider || kind == alerting.GenericHMACProvider
	switch {
	case keepsStatus(kind):
		// A commit is what it is when the work has ended, unless the Alert asks for it to be shown as pending.
		return !m.underway() || m.pending
	case m.statusOnly():
		return generic
	}
	return true
}
