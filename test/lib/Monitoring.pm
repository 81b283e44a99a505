# The files that monitoring programs read, as those programs take them: which
# queries they run, and which metrics they make of the rows.

package Monitoring;

use strict;
use warnings;

use CPAN::Meta::YAML;
use JSON::PP;
use Test::More;

sub read_yaml
{
	my ($path) = @_;
	my $yaml = CPAN::Meta::YAML->read($path) or die "could not read \"$path\"";

	return $yaml->[0];
}

# A file of sql_exporter as a list of queries: text, columns, and the metrics
# that are made of it, each with name, type, labels and the column of its value.
sub sql_exporter
{
	my ($path) = @_;
	my $collector = read_yaml($path);
	my @queries;

	for my $query (@{ $collector->{queries} })
	{
		my @metrics =
		  map { {
			  name => $_->{metric_name},
			  type => $_->{type},
			  help => $_->{help},
			  labels => $_->{key_labels},
			  value => $_->{values}[0]
		  } }
		  grep { $_->{query_ref} eq $query->{query_name} } @{ $collector->{metrics} };
		push @queries, { name => $query->{query_name}, text => $query->{query}, metrics => \@metrics };
	}
	my $referenced = grep { defined $_->{query_ref} && @{ $_->{values} } == 1 } @{ $collector->{metrics} };
	my $found = 0;
	$found += @{ $_->{metrics} } for @queries;
	is($found, $referenced, 'sql_exporter: each metric has its query, and one value');
	is($referenced, scalar @{ $collector->{metrics} }, 'sql_exporter: that is so for all of them');
	return @queries;
}

# Likewise of postgres_exporter, where a metric's name is that of the query and
# the column.
sub postgres_exporter
{
	my ($path) = @_;
	my $file = read_yaml($path);
	my @queries;

	for my $name (sort keys %$file)
	{
		my (@labels, @values);

		for my $column (@{ $file->{$name}{metrics} })
		{
			my ($key) = keys %$column;
			my $usage = $column->{$key}{usage};

			push @labels, $key if $usage eq 'LABEL';
			push @values, [ $key, lc $usage, $column->{$key}{description} ] if $usage =~ /^(COUNTER|GAUGE)$/;
			fail("postgres_exporter: usage $usage") unless $usage =~ /^(LABEL|COUNTER|GAUGE)$/;
		}
		push @queries,
		  {
			name => $name,
			text => $file->{$name}{query},
			metrics => [
				map { {
					name => "${name}_$_->[0]", type => $_->[1], help => $_->[2],
					labels => \@labels, value => $_->[0]
				} } @values
			]
		  };
	}
	return @queries;
}

# Names and types of a query's columns.
sub columns
{
	my ($node, $db, $role, $query) = @_;
	my $described = $node->safe_psql($db, "$query \\gdesc", extra_params => [ '-U', $role ]);

	return map { [ split /\|/ ] } split /\n/, $described;
}

# A query must have the columns that its metrics need, of the types that they
# need, and no others.
sub check_columns
{
	my ($node, $db, $role, $query) = @_;
	my %labels = map { $_ => 1 } map { @{ $_->{labels} } } @{ $query->{metrics} };
	my %values = map { $_->{value} => 1 } @{ $query->{metrics} };
	my @columns = columns($node, $db, $role, $query->{text});

	is_deeply(
		[ sort map { $_->[0] } @columns ],
		[ sort keys %labels, keys %values ],
		"$query->{name}: its columns are its labels and values");
	for my $column (@columns)
	{
		my $type = $labels{ $column->[0] } ? qr/^(text|name)$/ : qr/^(integer|bigint|numeric|double precision)$/;
		like($column->[1], $type, "$query->{name}: type of $column->[0]");
	}
	return;
}

# The samples that queries give: "name{label="value",...}" => number.
sub samples
{
	my ($node, $db, $role, @queries) = @_;
	my %samples;

	for my $query (@queries)
	{
		my $rows = $node->safe_psql($db, "SELECT row_to_json(q) FROM ($query->{text}) q", extra_params => [ '-U', $role ]);

		for my $row (map { decode_json($_) } split /\n/, $rows)
		{
			add_sample(\%samples, $_, $row) for @{ $query->{metrics} };
		}
	}
	return \%samples;
}

sub add_sample
{
	my ($samples, $metric, $row) = @_;
	my @labels = map {
		fail("$metric->{name}: label $_ is null") unless defined $row->{$_};
		sprintf '%s="%s"', $_, $row->{$_}
	} sort @{ $metric->{labels} };
	my $name = sprintf '%s{%s}', $metric->{name}, join ',', @labels;

	return unless defined $row->{ $metric->{value} };
	fail("$name comes twice") if exists $samples->{$name};
	$samples->{$name} = $row->{ $metric->{value} };
	return;
}

1;
