package scorecard

// Markdown returns the tables of the page of results.
func (d *Data) Markdown() string { return d.BarTable() }
