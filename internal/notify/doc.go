// Package notify tells people and other systems what happens: it serves Flux's Alerts and Providers out of the events of this
// process and of third parties.
//
// An event is matched with the Alerts as they are at that time; what one of them wants becomes a message in the queue of its
// Provider. Each Provider with messages has a goroutine that delivers them one by one and tries again what failed, so that
// an endpoint that is down holds up nobody, neither a reconcile nor another Provider.
package notify
