/*-------------------------------------------------------------------------
 *
 * base_tables.c
 *	  The tables that a relation's rows come from.
 *
 * A view has those of its query, a table its children.  Only if all of them
 * are plain tables of this database do its transactions and locks tell who
 * may still add rows: the rows of a foreign table are written elsewhere, those
 * of a materialized view appear later than they were written, and those of a
 * function may come from anywhere.
 *
 * Locks: AccessShareLock on the views, as reading them takes.
 *
 *-------------------------------------------------------------------------
 */
#include "source/site.h"

#include "access/relation.h"
#include "catalog/pg_class.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_namespace.h"
#include "miscadmin.h"
#include "nodes/nodeFuncs.h"
#include "rewrite/rewriteHandler.h"
#include "utils/lsyscache.h"

typedef struct TableWalk
{
	List *tables; /* OIDs, with children */
	List *views;  /* that were walked */
	bool all_here;
	bool any_foreign;
} TableWalk;

static void walk_relation(TableWalk *walk, Oid relid);
static void walk_view(TableWalk *walk, Oid relid);
static void add_with_children(TableWalk *walk, Oid relid);
static bool walk_node(Node *node, void *context);
static bool is_built_in(RangeTblEntry *rte);

/*
 * OIDs of the tables; *all_here: they are all of the kind that tells;
 * *any_foreign (or NULL): there are foreign tables.
 */
List *
etl_base_tables(Relation source, bool *all_here, bool *any_foreign)
{
	TableWalk walk = {.all_here = true};

	walk_relation(&walk, RelationGetRelid(source));
	*all_here = walk.all_here;
	if (any_foreign != NULL)
		*any_foreign = walk.any_foreign;
	return walk.tables;
}

static void
walk_relation(TableWalk *walk, Oid relid)
{
	check_stack_depth();
	switch (get_rel_relkind(relid))
	{
		case RELKIND_RELATION:
		case RELKIND_PARTITIONED_TABLE:
			add_with_children(walk, relid);
			break;
		case RELKIND_VIEW:
			walk_view(walk, relid);
			break;
		case RELKIND_FOREIGN_TABLE:
			walk->any_foreign = true;
			walk->all_here = false;
			break;
		default:
			walk->all_here = false;
			break;
	}
}

static void
walk_view(TableWalk *walk, Oid relid)
{
	Relation view;

	if (list_member_oid(walk->views, relid))
		return;
	walk->views = lappend_oid(walk->views, relid);
	view = relation_open(relid, AccessShareLock);
	(void) walk_node((Node *) get_view_query(view), walk);
	relation_close(view, NoLock);
}

static void
add_with_children(TableWalk *walk, Oid relid)
{
	ListCell *lc;

	foreach(lc, find_all_inheritors(relid, NoLock, NULL))
	{
		char relkind = get_rel_relkind(lfirst_oid(lc));

		if (relkind != RELKIND_RELATION && relkind != RELKIND_PARTITIONED_TABLE)
			walk->all_here = false;
		if (relkind == RELKIND_FOREIGN_TABLE)
			walk->any_foreign = true;
		walk->tables = list_append_unique_oid(walk->tables, lfirst_oid(lc));
	}
}

static bool
walk_node(Node *node, void *context)
{
	if (node == NULL)
		return false;
	if (IsA(node, Query))
	{
		ListCell *lc;

		foreach(lc, ((Query *) node)->rtable)
		{
			RangeTblEntry *rte = lfirst_node(RangeTblEntry, lc);

			if (rte->rtekind == RTE_RELATION)
				walk_relation(context, rte->relid);
			else if (rte->rtekind == RTE_FUNCTION && !is_built_in(rte))
				((TableWalk *) context)->all_here = false;
		}
		return query_tree_walker((Query *) node, walk_node, context, 0);
	}
	return expression_tree_walker(node, walk_node, context);
}

/* Functions of PostgreSQL make their rows from their arguments. */
static bool
is_built_in(RangeTblEntry *rte)
{
	ListCell *lc;

	foreach(lc, rte->functions)
	{
		Node *call = lfirst_node(RangeTblFunction, lc)->funcexpr;

		if (IsA(call, FuncExpr) &&
			get_func_namespace(castNode(FuncExpr, call)->funcid) !=
				PG_CATALOG_NAMESPACE)
			return false;
	}
	return true;
}
