// Package tests has no code of its own. Its tests are those that need more than one
// module, or look at the modules from outside.
package tests
