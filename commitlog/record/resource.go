package record

// Resource names a topic or a consumer group. Namespaces isolate: the same name
// in two namespaces is two resources, and an absent namespace is "".
type Resource struct {
	Namespace string
	Name      string
}

func (r Resource) String() string {
	if r.Namespace == "" {
		return r.Name
	}
	return r.Namespace + "%" + r.Name
}

// AppendResource appends r to a command.
func AppendResource(dst []byte, r Resource) []byte {
	return AppendString(AppendString(dst, r.Namespace), r.Name)
}

// Resource reads what AppendResource wrote.
func (d *Decoder) Resource() Resource {
	return Resource{Namespace: d.String(), Name: d.String()}
}
