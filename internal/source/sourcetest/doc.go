// Package sourcetest is for tests of the controllers of sources: an API server that is a fake, which shows what is asked of it
// (the e2e tests hold that against a real one), and the events that they send.
package sourcetest
